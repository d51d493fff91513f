"""What a run has reached: metrics, uncertainty, verdict, speed, report."""
