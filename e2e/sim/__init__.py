"""A model of a fleet in which the shipped decisions are made: what they cost and what they give, without devices."""
