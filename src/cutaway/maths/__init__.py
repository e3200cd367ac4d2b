"""Numbers without networks: statistics, sampling, linear algebra."""
