"""Operating the lakehouse from a command line: the home, jobs run with a clock, replay, status, quickstart."""
