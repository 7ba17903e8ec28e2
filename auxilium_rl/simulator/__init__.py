"""For authors of simulators: put an environment behind the protocols, or dial out to a trainer with it."""
