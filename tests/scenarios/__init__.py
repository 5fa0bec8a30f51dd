"""Stories with real voices and no clock."""
