// By which words a person tells one text from another.
#pragma once

#include <optional>
#include <string>

namespace attnscope::server {

// Of the text that a program reads: the last turn of its user. Nothing: none is marked in a way that is known here.
std::optional<std::string> last_turn(const std::string& text);
// The text without the marks that stand before it, up to the first that ends a turn.
std::string without_marks(const std::string& text);

// Is this one mark of a template, or a token that begins or ends a text, and nothing else?
bool is_mark(const std::string& piece);

} // namespace attnscope::server
