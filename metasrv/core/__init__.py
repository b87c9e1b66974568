"""Pure decisions of metasrv: state, apply, leases, supervisor, planner, procedures, explain."""
