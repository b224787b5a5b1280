"""What the tests of adapters and of pages share.

An adapter's test file makes a class of `AdapterContract`, says which adapter it is and how a small model of its zoo is
made and run, and pytest finds the tests.

Needs pytest and the extra ``anylocal[torch]``.
"""

from anylocal.testing.browser import browser
from anylocal.testing.contract import AdapterContract
from anylocal.testing.models import perturb

__all__ = ["AdapterContract", "browser", "perturb"]
