import sys

from .validate import main

sys.exit(main())
