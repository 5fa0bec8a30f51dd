"""Write docs/trip.md: the trip's table and a diagram of it, from the rows that the daemon obeys.

    .venv/bin/python tools/trip_diagram.py

A test holds the page and the code together.
"""

from __future__ import annotations

from pathlib import Path

from whodrives.trip.table import TABLE, Action, Row, State

PAGE = Path(__file__).parents[1] / "docs" / "trip.md"

_HEAD = """# The trip

Generated from `TABLE` in `daemon/whodrives/trip/table.py` by `tools/trip_diagram.py`: this is what
the daemon obeys, row by row. A trip is *closed*, *open* (its driver is not decided yet), *assigned*
(an enrolled driver drives), or *unassigned* (nobody who is enrolled drives, and a voice is assigned
only after `listen`). What is asked of the ECUs meanwhile, and how often, is in the docstring of
`daemon/whodrives/trip/requests.py`.
"""

_STATES = {
    State.CLOSED: "no trip",
    State.OPEN: "the driver is not decided yet",
    State.ASSIGNED: "an enrolled driver drives",
    State.UNASSIGNED: "nobody who is enrolled drives",
}


def page() -> str:
    """The page's text."""
    diagram = "\n".join(_diagram())
    table = "\n".join(_table())
    notes = (
        "The first row that matches applies. A value of the car that is missing or stale is not\n"
        "known, and neither opens nor closes a trip. A refused command is answered on\n"
        "`command/result` with that reason; a cancelled request, on `preferences/cancel`."
    )
    return f"{_HEAD}\n```mermaid\n{diagram}\n```\n\n{notes}\n\n{table}\n"


def _diagram() -> list[str]:
    """A Mermaid state diagram of the rows that lead elsewhere, or do something."""
    lines = ["stateDiagram-v2", "    [*] --> closed"]
    lines += [f"    {state} : {state}<br>{text}" for state, text in _STATES.items()]
    for row in TABLE:
        if row.action in (Action.NOTHING, Action.REFUSE):
            continue
        if row.to is None and len(row.states) == len(State):
            # In every state alike: the table says it once.
            continue
        for state in row.states:
            lines.append(f"    {state} --> {row.to or state} : {_words(row)}")
    return lines


def _table() -> list[str]:
    lines = ["| state | when | and | then | what follows |", "|---|---|---|---|---|"]
    for row in TABLE:
        states = "any" if len(row.states) == len(State) else ", ".join(row.states)
        follows = f"{row.action} (`{row.reason}`)" if row.reason else row.action
        cells = (states, row.trigger, row.guard or "", row.to or "stays", follows)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _words(row: Row) -> str:
    """What is written on an arrow; a colon would end it."""
    words = f"{row.trigger}, {row.guard}" if row.guard else str(row.trigger)
    return words.replace(":", ",")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
