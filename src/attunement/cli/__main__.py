"""`python -m attunement.cli`: the same as `attune`, for launchers that start a module."""

from attunement.cli.app import main

main()
