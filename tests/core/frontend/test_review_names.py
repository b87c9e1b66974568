"""Names that datanodes use themselves: a column of that name would make its table's rows unreadable."""

import pytest

from datanode_agent.engine.merge import EPOCH, SEQUENCE
from groundwork.core.errors import BadInput
from groundwork.core.table import Column, Role, check_new_columns
from metasrv_frontend.core.line_protocol import parse_lines
from metasrv_frontend.core.line_values import BadLine
from metasrv_frontend.core.sql_words import statements
from metasrv_frontend.core.statements import parse


@pytest.mark.parametrize("name", [EPOCH, SEQUENCE, "_metasrv_"])
@pytest.mark.parametrize("line", ["cpu {}=1", 'cpu {}="s",v=1', "cpu,{}=x v=1", r"cpu,{}=x v\ w=1", "cpu v=1,{}=1i 7"])
def test_p1_a_line_cannot_make_a_column_that_rows_keep_their_order_in(name: str, line: str) -> None:
    """P1: such a field was acknowledged, and then no scan and no flush of its region worked any more."""
    with pytest.raises(BadLine, match="datanodes use themselves") as refused:
        parse_lines(b"cpu v=1\n" + line.format(name).encode())
    assert refused.value.line == 2


@pytest.mark.parametrize("name", [EPOCH, SEQUENCE])
def test_p1_a_statement_cannot_make_it_either(name: str) -> None:
    """P1: neither as a field nor as a tag nor as the time; nor may any other client of metasrv."""
    for column in (f"{name} DOUBLE", f"{name} STRING PRIMARY KEY", f'"{name}" BIGINT'):
        (statement,) = statements(f"CREATE TABLE cpu (ts TIMESTAMP TIME INDEX, {column})")
        with pytest.raises(BadInput, match="datanodes' own"):
            parse(statement)
    with pytest.raises(BadInput, match="datanodes' own"):
        check_new_columns([Column(name, "float64", Role.FIELD)])


def test_like_names_are_free() -> None:
    """Only the prefix is taken, and only of columns: a table may have any name."""
    tables = parse_lines(b"_metasrv_cpu,metasrv=x _metasrv=1,_Metasrv_epoch=2")
    assert list(tables["_metasrv_cpu"].fields) == ["_metasrv", "_Metasrv_epoch"]
