// What the page can look at.
#pragma once

#include "server/view/glances.h"
#include "server/view/viewed.h"

#include <compare>
#include <list>
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
    // The first of them that is more than a warm-up is what a page will open: it is read before anybody asks.
    void begin();
    // Recordings in this folder, as they come, the newest first. Empty: none.
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
        Glance glance = {};
    };
    std::vector<Named> list();
    struct Which {
        std::string id;
        int64_t sequence = 0;
        auto operator<=>(const Which&) const = default;
    };
    // not_found: no such id, or no such sequence. An id is never a path.
    Result<std::shared_ptr<Viewed>> find(const Which& which);
    // Asked for again until it is there.
    std::optional<Result<Json>> compare(const Which& a, const Which& b, double& progress);

private:
    using Opened = std::list<std::pair<Which, std::shared_ptr<Viewed>>>;
    Glances glances_;
    std::mutex mutex_;
    std::vector<std::shared_ptr<Viewed>> named_;
    std::vector<Named> named(std::vector<std::string>& paths);
    void number_new(const std::vector<std::string>& names);
    // Under the mutex, all three. What is closed goes to `closed`: its threads are waited for without it.
    Result<std::shared_ptr<Viewed>> find(const Which& which, Opened& closed);
    Result<std::shared_ptr<Viewed>> open(const Which& which, Opened& closed);
    void close_old(Opened& closed);
    std::string folder_;
    bool of_server_ = true;
    std::map<std::string, size_t> came_; // names in the folder, in which order they were seen
    Opened opened_;                      // of the folder, and all sequences but 0; the last that was asked for first
    std::map<std::pair<Which, Which>, std::unique_ptr<Job>> comparisons_;
};

} // namespace attnscope::server
