#include "server/http/reply.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace attnscope::server {

namespace {

// Ollama's routes are those under /api/ that KoboldCPP's own are not.
bool is_ollamas(const std::string& path) {
    for (const char* route : {"/api/blobs/", "/api/chat", "/api/copy", "/api/create", "/api/delete", "/api/embed",
                              "/api/generate", "/api/ps", "/api/pull", "/api/push", "/api/show", "/api/tags"}) {
        if (path.rfind(route, 0) == 0) return true;
    }
    return false;
}

} // namespace

Dialect dialect_of(const std::string& path) {
    if (is_ollamas(path)) return Dialect::ollama;
    return path.rfind("/api/", 0) == 0 ? Dialect::kobold : Dialect::openai;
}

void reply(httplib::Response& response, const Json& body, int status) {
    response.status = status;
    response.set_content(json_text(body), "application/json");
}

void reply_in_pieces(const httplib::Request& request, httplib::Response& response, const std::string& type,
                     httplib::ContentProviderWithoutLength send, httplib::ContentProviderResourceReleaser over) {
    if (request.version != "HTTP/1.0")
        return response.set_chunked_content_provider(type, std::move(send), std::move(over));
    // It knows no chunks: the end of the connection is the end of the answer.
    response.set_header("Connection", "close");
    response.set_content_provider(type, std::move(send), std::move(over));
}

namespace {

const char* type_of(Dialect dialect, int status) {
    switch (status) {
    case 401: return dialect == Dialect::kobold ? "unauthorized" : "authentication_error";
    case 403: return dialect == Dialect::kobold ? "forbidden" : "permission_error";
    case 404: return dialect == Dialect::kobold ? "not_found" : "not_found_error";
    case 503: return dialect == Dialect::kobold ? "service_unavailable" : "unavailable_error";
    default: break;
    }
    if (status >= 500) return "server_error";
    return dialect == Dialect::kobold ? "bad_input" : "invalid_request_error";
}

} // namespace

Json error_body(Dialect dialect, int status, const std::string& message) {
    if (dialect == Dialect::ollama) return {{"error", message}};
    if (dialect == Dialect::kobold) return {{"detail", {{"msg", message}, {"type", type_of(dialect, status)}}}};
    Json error = {{"message", message}, {"type", type_of(dialect, status)}, {"code", status}, {"param", nullptr}};
    if (message.find(context_overflow) != std::string::npos) error["code"] = "context_length_exceeded";
    return {{"error", std::move(error)}};
}

std::string printable(const std::string& text, size_t most) {
    std::string out = text.substr(0, most);
    std::replace_if(
        out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c >= 0x7F; }, '?');
    return out;
}

void name_ignored(httplib::Response& response, const std::vector<std::string>& fields) {
    std::string names;
    for (const std::string& field : fields) {
        // a client's words: nothing that ends a header, and no end of it
        const bool plain = field.size() <= 64 && std::all_of(field.begin(), field.end(), [](unsigned char c) {
                               return std::isalnum(c) || c == '_' || c == '-' || c == '.';
                           });
        if (names.size() > 2048) break;
        names += (names.empty() ? "" : ", ") + (plain ? field : std::string("(another)"));
    }
    if (!names.empty()) response.set_header("X-Ignored-Fields", names);
}

void refuse(httplib::Response& response, Dialect dialect, int status, const std::string& message) {
    reply(response, error_body(dialect, status, message), status);
}

void refuse(httplib::Response& response, Dialect dialect, const Error& error) {
    const int status = error.kind == ErrorKind::unsupported                             ? 501
                       : error.kind == ErrorKind::engine || error.kind == ErrorKind::io ? 500
                       : error.kind == ErrorKind::not_found                             ? 404
                                                                                        : 400;
    refuse(response, dialect, status, error.message);
}

std::string not_compressed(const std::string& encoding) {
    return "Content-Encoding " + printable(encoding, 32) + " is not supported; send the body as it is";
}

void refuse_method(const httplib::Request& request, httplib::Response& response, const std::string& allowed) {
    response.set_header("Allow", allowed);
    refuse(response, dialect_of(request.path), 405,
           printable(request.method, 16) + " is no method of " + printable(request.path, 128) + ", which takes " +
               allowed);
}

void refuse_busy(httplib::Response& response, Dialect dialect) {
    response.set_header("Retry-After", "1");
    refuse(response, dialect, 503, "the server is busy: as many requests wait as may; try again later");
}

} // namespace attnscope::server
