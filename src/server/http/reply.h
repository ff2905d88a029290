// Answers and refusals, in the dialect of the endpoint.
#pragma once

#include "server/http/request_fields.h"

#include <httplib.h>

#include <string>

namespace attnscope::server {

// KoboldCPP's errors are {"detail": {"msg", "type"}}, OpenAI's and llama-server's {"error": {"message", "type", "code"}}.
enum class Dialect { kobold, openai };

// The dialect that speaks under this path.
Dialect dialect_of(const std::string& path);

void reply(httplib::Response& response, const Json& body, int status = 200);
Json error_body(Dialect dialect, int status, const std::string& message);
void refuse(httplib::Response& response, Dialect dialect, int status, const std::string& message);
// 400 for what the client can mend, 501 for what this model or build cannot do, 500 otherwise.
void refuse(httplib::Response& response, Dialect dialect, const Error& error);
void refuse_busy(httplib::Response& response, Dialect dialect);

} // namespace attnscope::server
