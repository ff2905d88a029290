// Where a body and an answer end, and what becomes of the connection: said once, and in words where it cannot be known.
#pragma once

#include <httplib.h>

#include <string>

namespace attnscope::server {

// Why the body of a request cannot be read although its end is known: a coding that is not undone here. Empty: it can.
std::string transfer_coding_refusal(const httplib::Request& request);
// Why nobody can tell where the body ends. Empty: it is known.
std::string framing_refusal(const httplib::Request& request);
// Set in an answer's user_data: it is sent without the length that httplib gives to whatever has no body.
inline constexpr const char* no_length = "no length";
// One `Connection`, and beside "close" nothing that says otherwise. Before the head is written.
void settle_connection(const httplib::Request& request, httplib::Response& response);

} // namespace attnscope::server
