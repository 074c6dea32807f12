"""Terminal answers, self-contained HTML reports and launch commands."""
