"""What both ends of the federation must agree on: run config, wire records, aggregation."""
