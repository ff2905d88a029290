// Requests to the program and its answers back, unchanged but for what belongs to one connection.
#include "base/bounded_json.h"
#include "server/front/front_service.h"
#include "server/http/framing.h"
#include "server/http/http_host.h"
#include "server/http/reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

namespace attnscope::server {

namespace {

constexpr const char* kept_type = "X-Attnscope-Content-Type";
constexpr const char* kept_encoding = "X-Attnscope-Content-Encoding";

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

// Of one connection, or written anew by whoever sends the body on.
bool of_connection(const std::string& name) {
    constexpr std::array<std::string_view, 10> names{
        "connection", "keep-alive",        "proxy-connection", "proxy-authenticate", "te",
        "trailer",    "transfer-encoding", "upgrade",          "content-length",     "expect"};
    return std::find(names.begin(), names.end(), name) != names.end();
}

// Of one connection, too, because whoever sent them says so.
bool is_named(const std::string& name, const httplib::Headers& headers) {
    const auto [begin, end] = headers.equal_range("Connection");
    for (auto at = begin; at != end; ++at) {
        std::string named = "," + lower(at->second) + ",";
        std::erase_if(named, [](unsigned char c) { return c == ' ' || c == '\t'; });
        if (named.find("," + name + ",") != std::string::npos) return true;
    }
    return false;
}

// The browser's question whether a page may call was answered by us: the program need not be asked again.
bool of_access(const std::string& name) {
    return name == "host" || name == "origin" || name.rfind("access-control-", 0) == 0;
}

std::optional<uint64_t> content_length(const httplib::Headers& headers) {
    const auto found = headers.find("Content-Length");
    if (found == headers.end()) return std::nullopt;
    uint64_t length = 0;
    const char* const end = found->second.data() + found->second.size();
    const auto [at, error] = std::from_chars(found->second.data(), end, length);
    return error == std::errc() && at == end ? std::optional(length) : std::nullopt;
}

// Does a reader of JSON get any further than its first character?
bool is_json(std::string_view body) {
    if (body.starts_with("\xef\xbb\xbf")) body.remove_prefix(3);
    const size_t first = body.find_first_not_of(" \t\r\n");
    return first != std::string_view::npos && (body[first] == '{' || body[first] == '[');
}

void rename(httplib::Headers& headers, const char* from, const char* to) {
    headers.erase(to);
    const auto found = headers.find(from);
    if (found == headers.end()) return;
    std::string value = found->second;
    headers.erase(from);
    headers.emplace(to, std::move(value));
}

} // namespace

void keep_body_as_it_is(httplib::Request& request) {
    rename(request.headers, "Content-Type", kept_type);
    rename(request.headers, "Content-Encoding", kept_encoding);
    request.ranges.clear(); // the program's to answer
}

httplib::Request request_to_program(const httplib::Request& request) {
    httplib::Request out;
    out.method = request.method;
    out.path = request.target;
    for (const auto& [name, value] : request.headers) {
        const std::string known = lower(name);
        if (of_connection(known) || of_access(known) || is_named(known, request.headers)) continue;
        out.headers.emplace(known == lower(kept_type)       ? "Content-Type"
                            : known == lower(kept_encoding) ? "Content-Encoding"
                                                            : name,
                            value);
    }
    out.body = request.body;
    return out;
}

httplib::Headers headers_for_questions(const httplib::Request& request) {
    httplib::Headers out;
    for (const char* name : {"Authorization", "X-Api-Key"}) {
        if (request.has_header(name)) out.emplace(name, request.get_header_value(name));
    }
    return out;
}

void pass_head_on(httplib::Response& response, const Upstream::Head& head) {
    response.status = head.status;
    response.user_data.set(passed_on, true);
    for (const auto& [name, value] : head.headers) {
        const std::string known = lower(name);
        if (!of_connection(known) && !of_access(known) && !is_named(known, head.headers))
            response.headers.emplace(name, value);
    }
}

void refuse_unreached(httplib::Response& response, const httplib::Request& request, const Error& error) {
    const bool not_yet = error.kind == ErrorKind::not_found;
    if (not_yet) response.set_header("Retry-After", "1");
    refuse(response, dialect_of(request.path), not_yet ? 503 : 502, error.message);
}

bool is_compressed(const httplib::Request& request) {
    const std::string encoding = lower(request.get_header_value(kept_encoding));
    return !encoding.empty() && encoding != "identity";
}

void refuse_compressed(const httplib::Request& request, httplib::Response& response) {
    refuse(response, dialect_of(request.path), 415, not_compressed(request.get_header_value(kept_encoding)));
}

void pass_answer_on(FrontService& service, const httplib::Request& request, httplib::Response& response,
                    std::shared_ptr<Upstream> upstream, const Upstream::Head& head) {
    const std::optional<uint64_t> length = content_length(head.headers);
    // llama-server says it without a word
    if (head.status == 415 && length == 0 && is_compressed(request)) return refuse_compressed(request, response);
    pass_head_on(response, head);
    if (request.method == "HEAD") {
        if (length)
            response.set_header("Content-Length", std::to_string(*length));
        else
            response.user_data.set(no_length, true); // as GET: nobody knows
        return;
    }
    if (head.status == 204 || head.status == 304) return response.user_data.set(no_length, true);
    if (length && *length == 0) return;
    const auto send = [upstream, gone = gone_away(request, service)](httplib::DataSink& sink) {
        return upstream->pass([&](const char* data, size_t size) { return sink.write(data, size); }, gone).ok();
    };
    // The provider's own type would stand beside the program's.
    const std::string type = response.get_header_value("Content-Type");
    response.headers.erase("Content-Type");
    if (length) {
        response.set_content_provider(*length, type,
                                      [send](size_t, size_t, httplib::DataSink& sink) { return send(sink); });
    } else {
        reply_in_pieces(request, response, type, [send](size_t, httplib::DataSink& sink) {
            if (!send(sink)) return false;
            sink.done();
            return true;
        });
    }
    if (type.empty()) response.headers.erase("Content-Type");
}

void pass_on(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    if (request.has_header("Upgrade")) {
        return refuse(response, dialect_of(request.path), 501, "WebSockets are not passed on to the program");
    }
    if (!base::json_depth_is_bounded(request.body, most_levels) && is_json(request.body)) {
        return refuse(response, dialect_of(request.path), 400,
                      fmt::format("JSON of more than {} levels is not passed on: the program might end", most_levels));
    }
    const auto upstream = std::make_shared<Upstream>(service.options.to, request_to_program(request));
    Result<Upstream::Head> head = upstream->head(gone_away(request, service));
    if (!head) return refuse_unreached(response, request, head.error());
    pass_answer_on(service, request, response, upstream, *head);
}

} // namespace attnscope::server
