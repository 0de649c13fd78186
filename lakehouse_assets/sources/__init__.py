"""Where rows come from: declarations of files, reading and landing them, and a simulator of the same form."""
