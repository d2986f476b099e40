"""The verbs of a request: ``unlearn`` carries it out, ``plan`` says before what it would take."""
