"""How others use a band: an OpenAI-compatible server, people's profiles, and a page to play on."""
