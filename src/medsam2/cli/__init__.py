"""The medsam2 command, one file a subcommand."""
