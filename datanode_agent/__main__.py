"""`python -m datanode_agent`: the same as the console script."""

from datanode_agent.main import main

main()
