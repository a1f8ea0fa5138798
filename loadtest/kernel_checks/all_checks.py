"""The list of all checks."""

from typing import Final

from loadtest.kernel_checks.attention import ATTENTION
from loadtest.kernel_checks.elementwise import ELEMENTWISE
from loadtest.kernel_checks.linear import LINEAR
from loadtest.kernel_checks.sampling import SAMPLING

ALL: Final = (*ATTENTION, *ELEMENTWISE, *LINEAR, *SAMPLING)
