// What the page can look at.
#pragma once

#include "server/view/viewed.h"

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::server {

// Files that were named, or the recordings of a folder.
class ViewSources {
public:
    // Named by whoever started the program: any path.
    Result<void> add(const std::string& path);
    // The first of them is what a page will open: it is read before anybody asks.
    void begin();
    // Recordings in this folder, as they come: those of a server by name, others with the newest first. Empty: none.
    void watch(const std::string& folder, bool of_server = true) {
        folder_ = folder;
        of_server_ = of_server;
    }
    bool watches() const { return !folder_.empty(); }
    struct Named {
        std::string id, name;
        bool capture = false;
        bool of_server = false; // recorded by this server, for whichever client asked
        bool gone = false;      // its file is no longer there; what was read of it is
    };
    std::vector<Named> list();
    // not_found: no such id. An id is never a path.
    Result<std::shared_ptr<Viewed>> find(const std::string& id);
    // Asked for again until it is there.
    std::optional<Result<Json>> compare(const std::string& a, const std::string& b, double& progress);

private:
    std::mutex mutex_;
    std::vector<std::shared_ptr<Viewed>> named_;
    void number_new(const std::vector<std::string>& names);
    std::string folder_;
    bool of_server_ = true;
    std::map<std::string, size_t> came_;                    // names in the folder, in which order they were seen
    std::map<std::string, std::shared_ptr<Viewed>> opened_; // of the folder
    std::map<std::pair<std::string, std::string>, std::unique_ptr<Job>> comparisons_;
};

} // namespace attnscope::server
