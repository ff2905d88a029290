#include "server/view/page.h"

namespace attnscope::server {

extern const unsigned char page_script_bytes[], page_style_bytes[];
extern const unsigned long page_script_size, page_style_size;

std::string_view page_script() {
    return {reinterpret_cast<const char*>(page_script_bytes), page_script_size};
}
std::string_view page_style() {
    return {reinterpret_cast<const char*>(page_style_bytes), page_style_size};
}

std::string page_html() {
    if (page_script().empty()) {
        return "<!doctype html>\n<html lang=\"en\"><head><meta "
               "charset=\"utf-8\"><title>attnscope</title></head><body><p>This attnscope was built without "
               "the page: npm was missing. Run make setup, then build again.</p></body></html>\n";
    }
    return "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
           "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" "
           "content=\"light dark\">\n"
           "<title>attnscope</title>\n<link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" "
           "href=\"viewer.css\">\n"
           "<script type=\"module\" src=\"viewer.js\"></script>\n</head>\n<body><div id=\"app\"></div>"
           "<noscript>This page computes what it shows; it needs JavaScript.</noscript></body>\n</html>\n";
}

} // namespace attnscope::server
