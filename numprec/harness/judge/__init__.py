"""What rows say: statistics, verdicts and recommendations."""
