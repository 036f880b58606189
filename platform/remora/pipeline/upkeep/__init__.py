"""What a run folder holds, who needs it, whether it is whole; and how it is deleted, renamed and moved."""
