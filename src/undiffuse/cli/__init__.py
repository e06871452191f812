"""The command line: one file per command.  `undiffuse --help` imports neither torch nor any command's work."""
