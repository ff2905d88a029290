// Files of SQLite's that grow in large steps.
#pragma once

namespace attnscope::recording {

// The name of a virtual file system for Database::open: the system's own, but a log and the file into which it is copied are
// lengthened by zeros before pages are written there (in steps of 256 KiB; the file up to what it is to hold). To lengthen a file page
// by page costs Linux three to ten times as much as to write in what is there: each page is found a place and a book-keeping of its own.
// Zeros behind a log's last frame end it, as the rest of an older log does, and a file is as long as its first page says
// (https://www.sqlite.org/fileformat2.html, "File size in database pages", "WAL frames"). A step that fails is none: what is written
// then fails itself, or finds its place. Null: SQLite does not know its own.
const char* large_steps_vfs();

} // namespace attnscope::recording
