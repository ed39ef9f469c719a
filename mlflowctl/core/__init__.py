"""What every room may use: errors, events, redaction. Imports nothing of ours and nothing heavy."""
