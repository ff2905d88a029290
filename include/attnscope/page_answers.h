// What the viewer asks for, answered without a server: for a notebook's widget, or a page of another program.
//
//   auto answers = PageAnswers::open({"sky.attn"});
//   PageAnswer row = (*answers)->answer("row", "r=0&t=41&layer=3");   // (42) float32, as GET /view/api/row?r=0&t=41&layer=3
#pragma once

#include <attnscope/error.h>

#include <memory>
#include <string>
#include <vector>

namespace attnscope {

struct PageAnswer {
    int status = 200; // as of HTTP; 202: not there yet, ask again
    std::string body; // JSON, or numbers as they lie in memory: docs/view.md
};

// Thread-safe.
class PageAnswers {
public:
    // Recordings, and captures of others, by path; the first is "r=0". Fails where one of them cannot be opened at all.
    static Result<std::unique_ptr<PageAnswers>> open(const std::vector<std::string>& paths);
    virtual ~PageAnswers() = default;
    // The answer to GET /view/api/PATH?QUERY of a server. Refusals are answers, too: {"error": {"message": ...}} with a status of 400
    // and above. Never throws.
    virtual PageAnswer answer(const std::string& path, const std::string& query) = 0;
};

} // namespace attnscope
