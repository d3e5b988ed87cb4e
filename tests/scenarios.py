"""The table of scenarios; `scenario` has their form."""

from __future__ import annotations

from scenarios_codes import CODES
from scenarios_corrections import CORRECTIONS
from scenarios_failures import NODES, RESTARTS
from scenarios_faults import FAULTS
from scenarios_life import ENDS, LIVES, STARTS, SUSPENSIONS
from scenarios_size import GANGS, SIZES

SCENARIOS = [
    *LIVES,
    *STARTS,
    *CORRECTIONS,
    *ENDS,
    *SUSPENSIONS,
    *RESTARTS,
    *CODES,
    *NODES,
    *FAULTS,
    *SIZES,
    *GANGS,
]
