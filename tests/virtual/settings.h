// How the virtual device behaves, from environment variables (README.md lists them).

#pragma once

#include <cstddef>

namespace virtual_device {

enum class Order { forward, reverse, shuffle };

struct Settings {
    Order threads = Order::forward;   // in which the threads of a block run
    Order blocks = Order::forward;    // in which the blocks of a grid start; never shuffled
    int workers = 2;                  // operating system threads that share the blocks
    size_t memory = size_t(4) << 30;  // of the device, bytes
    int driver = 13000;               // version that the driver reports
    bool visible = true;              // whether there is a device at all
};

// Read at the first call. A value that makes no sense ends the program with a line that says so.
const Settings& settings();

}  // namespace virtual_device
