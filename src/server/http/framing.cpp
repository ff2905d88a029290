#include "server/http/framing.h"

#include "server/http/reply.h"

#include <algorithm>
#include <cctype>
#include <string_view>
#include <utility>
#include <vector>

namespace attnscope::server {

namespace {

// The members of a header that is a list, over all its lines, in small letters.
std::vector<std::string> list_of(const httplib::Headers& headers, const std::string& name) {
    std::vector<std::string> out(1);
    const auto [begin, end] = headers.equal_range(name);
    for (auto line = begin; line != end; ++line) {
        for (const unsigned char c : line->second + ",") {
            if (c == ',')
                out.emplace_back();
            else if (c != ' ' && c != '\t')
                out.back() += static_cast<char>(std::tolower(c));
        }
    }
    std::erase(out, std::string());
    return out;
}

bool is_among(const std::vector<std::string>& all, std::string_view one) {
    return std::find(all.begin(), all.end(), one) != all.end();
}

std::string named(const httplib::Request& request) {
    std::string all;
    const auto [begin, end] = request.headers.equal_range("Transfer-Encoding");
    for (auto line = begin; line != end; ++line) all += (all.empty() ? "" : ", ") + line->second;
    return "Transfer-Encoding " + printable(all, 64);
}

} // namespace

std::string transfer_coding_refusal(const httplib::Request& request) {
    const std::vector<std::string> codings = list_of(request.headers, "Transfer-Encoding");
    if (codings.empty() || codings == std::vector<std::string>{"chunked"}) return {};
    return named(request) + " is not supported, but for chunked alone; send the body as it is";
}

std::string framing_refusal(const httplib::Request& request) {
    if (!request.has_header("Transfer-Encoding")) return {};
    const std::vector<std::string> codings = list_of(request.headers, "Transfer-Encoding");
    if (codings.empty() || codings.back() != "chunked")
        return named(request) + " does not say where the body ends; send it as it is, with Content-Length or chunked";
    if (request.get_header_value_u64("Content-Length") > 0)
        return "a request with both Transfer-Encoding and Content-Length does not say which of them ends its body";
    return {};
}

void settle_connection(const httplib::Request& request, httplib::Response& response) {
    if (response.user_data.has(no_length)) response.headers.erase("Content-Length");
    const bool old = request.version == "HTTP/1.0";
    const std::vector<std::string> asked = list_of(request.headers, "Connection");
    const bool closes = is_among(list_of(response.headers, "Connection"), "close") || is_among(asked, "close") ||
                        (old && !is_among(asked, "keep-alive"));
    response.headers.erase("Connection");
    if (closes) response.headers.erase("Keep-Alive");
    if (closes) response.set_header("Connection", "close");
    if (!closes && old) response.set_header("Connection", "keep-alive"); // what it takes for granted is the end
}

} // namespace attnscope::server
