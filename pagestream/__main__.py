"""`python -m pagestream` is the command `pagestream`."""

import sys

from pagestream.cli import main

sys.exit(main())
