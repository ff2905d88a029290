// The routes of the page: GET only, under /view/. Same Host, Origin and key rules as everything else of the server.
#pragma once

#include "server/view/viewed.h"

#include <httplib.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace attnscope::server {

// What can be looked at: files that were named, or the recordings of a folder.
class ViewSources {
public:
    // Named by whoever started the program: any path.
    Result<void> add(const std::string& path);
    // Recordings in this folder, by name, as they come. Empty: none.
    void watch(const std::string& folder) { folder_ = folder; }
    struct Named {
        std::string id, name;
        bool capture = false;
        bool of_server = false; // recorded by this server, for whichever client asked
    };
    std::vector<Named> list();
    // not_found: no such id. An id is never a path.
    Result<std::shared_ptr<Viewed>> find(const std::string& id);
    // Asked for again until it is there.
    std::optional<Result<Json>> compare(const std::string& a, const std::string& b, double& progress);

private:
    std::mutex mutex_;
    std::vector<std::shared_ptr<Viewed>> named_;
    std::string folder_;
    std::map<std::string, std::shared_ptr<Viewed>> opened_; // of the folder
    std::map<std::pair<std::string, std::string>, std::unique_ptr<Job>> comparisons_;
};

// What GET /view/api/NAME answers. `live`: there is a model that can write. `sources` outlives what is returned.
using ViewRoutes = std::map<std::string, httplib::Server::Handler>;
ViewRoutes view_routes(ViewSources& sources, bool live);

void add_view_page(httplib::Server& http);
// `sources` outlives `http`.
void add_view_routes(httplib::Server& http, ViewSources& sources, bool live);

// Paths of the page that hold nothing of anybody: they need no key, for a browser cannot send one with a script's address.
bool is_view_page(const std::string& path);

} // namespace attnscope::server
