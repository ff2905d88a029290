// Placeholder object so that the room builds before its first file.
