"""How well whodrives recognises people, on any corpus."""
