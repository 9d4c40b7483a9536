"""The benchmark: arms (trained models and controls), clicked by protocols, scored, tested and reported."""
