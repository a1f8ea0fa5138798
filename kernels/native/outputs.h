// Where the sums of a tile start and where they go.
#pragma once
#include <algorithm>

#include "library.h"
#include "threads.h"
#include "tile.h"

namespace pagestream {

constexpr long kSharedRows = 120;     // whose sums stay in the first-level cache, beside what multiplies them
constexpr long kSmallWork = 1 << 16;  // multiplications that are not worth a second thread

INLINE void put_bias(const Matrix& matrix, long panel, int num_panels, long rows, float* sums) {
    const long width = (long)num_panels * kLanes;
    for (long r = 0; r < rows; ++r) {
        if (matrix.bias)
            memcpy(sums + r * width, matrix.bias + panel * kLanes, width * sizeof(float));
        else
            memset(sums + r * width, 0, width * sizeof(float));
    }
}

INLINE void put_out(const Matrix& matrix, long panel, int num_panels, long rows, const float* sums, float* y,
                    long ldy) {
    const long width = (long)num_panels * kLanes;
    const long wanted = std::min(width, matrix.num_rows - panel * kLanes);
    for (long r = 0; r < rows; ++r) memcpy(y + r * ldy + panel * kLanes, sums + r * width, wanted * sizeof(float));
}

}  // namespace pagestream
