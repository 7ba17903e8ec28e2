"""For authors of simulators: does mine keep the protocol?"""
