// Answers and refusals, in the dialect of the endpoint.
#pragma once

#include "server/http/request_fields.h"

#include <httplib.h>

#include <string>
#include <vector>

namespace attnscope::server {

// KoboldCPP's errors are {"detail": {"msg", "type"}}, OpenAI's and llama-server's {"error": {"message", "type", "code"}}, Ollama's
// {"error": "..."}.
enum class Dialect { kobold, openai, ollama };

// The dialect that speaks under this path.
Dialect dialect_of(const std::string& path);

void reply(httplib::Response& response, const Json& body, int status = 200);
// An answer whose length nobody knows before its end: `send` calls done() there. `over` is called when nothing more is sent.
void reply_in_pieces(const httplib::Request& request, httplib::Response& response, const std::string& type,
                     httplib::ContentProviderWithoutLength send,
                     httplib::ContentProviderResourceReleaser over = nullptr);
Json error_body(Dialect dialect, int status, const std::string& message);
void refuse(httplib::Response& response, Dialect dialect, int status, const std::string& message);
// 400 for what the client can mend, 501 for what this model or build cannot do, 500 otherwise.
void refuse(httplib::Response& response, Dialect dialect, const Error& error);
// Words of a refusal that OpenAI's clients know as the code "context_length_exceeded".
inline constexpr const char* context_overflow = "fit into the context of";
// The header X-Ignored-Fields; nothing where none is.
void name_ignored(httplib::Response& response, const std::vector<std::string>& fields);
// A client's words on one line of a log or a message, cut to `most` bytes.
std::string printable(const std::string& text, size_t most);
// Words of a 415: bodies are read as they come. `encoding`: a client's word.
std::string not_compressed(const std::string& encoding);
// 405: the path is a route, but not with this method. `allowed`: as the header Allow lists them.
void refuse_method(const httplib::Request& request, httplib::Response& response, const std::string& allowed);
void refuse_busy(httplib::Response& response, Dialect dialect);

} // namespace attnscope::server
