"""What a detector finds in pictures."""
