"""One hospital: the ClientApp, its limits, its door and its local explanations."""
