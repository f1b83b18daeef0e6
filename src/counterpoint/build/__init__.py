"""From data to artefacts: what the commands do, a stage or a path of stages to a file. Nothing is imported here."""
