"""What looks at a run and changes nothing: doctor, evaluation, report."""
