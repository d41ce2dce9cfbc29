"""The rules of Reminders."""
