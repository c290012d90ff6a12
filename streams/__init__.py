"""A stream of texts: read from files that grow, stdin or Kafka, searched for names, scored, counted, watched."""
