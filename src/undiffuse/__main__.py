"""python -m undiffuse"""

from undiffuse.cli.main import main

main()
