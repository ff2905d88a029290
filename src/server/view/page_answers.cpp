#include <attnscope/page_answers.h>

#include "server/http/reply.h"
#include "server/view/routes.h"

#include <exception>

namespace attnscope {

namespace {

constexpr size_t longest_query = CPPHTTPLIB_REQUEST_URI_MAX_LENGTH; // as over HTTP

class PageAnswersImpl : public PageAnswers {
public:
    Result<void> add(const std::string& path) { return sources_.add(path); }

    PageAnswer answer(const std::string& path, const std::string& query) override {
        httplib::Request request;
        httplib::Response response;
        const auto route = routes_.find(path);
        try {
            if (route == routes_.end())
                server::refuse(response, server::Dialect::openai, 404, "there is no such question");
            else if (query.size() > longest_query)
                server::refuse(response, server::Dialect::openai, 414, "the question is too long");
            else {
                httplib::detail::parse_query_text(query, request.params);
                route->second(request, response);
            }
        } catch (const std::exception&) { // memory
            return {500, R"({"error": {"message": "the question could not be answered for want of memory"}})"};
        }
        return {response.status > 0 ? response.status : 200, std::move(response.body)};
    }

private:
    server::ViewSources sources_;
    const server::ViewRoutes routes_ = server::view_routes(sources_, false);
};

} // namespace

Result<std::unique_ptr<PageAnswers>> PageAnswers::open(const std::vector<std::string>& paths) {
    auto answers = std::make_unique<PageAnswersImpl>();
    for (const std::string& path : paths) {
        if (Result<void> added = answers->add(path); !added) return added.error();
    }
    return std::unique_ptr<PageAnswers>(std::move(answers));
}

} // namespace attnscope
