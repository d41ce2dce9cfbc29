"""``kubetune quickstart``: what it applies, how it follows the job, what it shows."""
