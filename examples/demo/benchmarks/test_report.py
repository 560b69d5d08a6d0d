"""What a reporting tool does all day: parse the query behind a monthly report."""

import sqlparse

REPORT_QUERY = """
WITH monthly AS (
    SELECT o.customer_id, c.region, c.segment,
           DATE_TRUNC('month', o.created_at) AS month,
           SUM(o.total - o.discount) AS revenue,
           COUNT(DISTINCT o.id) AS orders,
           AVG(o.shipping_days) AS shipping_days
    FROM orders o
    INNER JOIN customers c ON c.id = o.customer_id
    LEFT JOIN regions r ON r.code = c.region AND r.active = 1
    WHERE o.status IN ('paid', 'shipped', 'delivered')
      AND o.created_at >= '2024-01-01' AND o.created_at < '2025-01-01'
    GROUP BY o.customer_id, c.region, c.segment, DATE_TRUNC('month', o.created_at)
    HAVING SUM(o.total - o.discount) > 100
), ranked AS (
    SELECT m.*, ROW_NUMBER() OVER (PARTITION BY m.region ORDER BY m.revenue DESC) AS place,
           LAG(m.revenue, 1) OVER (PARTITION BY m.customer_id ORDER BY m.month) AS last_month
    FROM monthly m
)
SELECT ranked.region, ranked.segment, ranked.month, ranked.revenue, ranked.orders,
       ranked.place, ranked.last_month, ranked.shipping_days,
       CASE WHEN ranked.last_month IS NULL THEN 'new'
            WHEN ranked.revenue > ranked.last_month * 1.1 THEN 'growing'
            WHEN ranked.revenue < ranked.last_month * 0.9 THEN 'shrinking'
            ELSE 'steady' END AS trend,
       COALESCE(t.target, 0) AS target, ROUND(ranked.revenue / NULLIF(t.target, 0), 2) AS reached
FROM ranked
LEFT JOIN targets t ON t.region = ranked.region AND t.month = ranked.month
WHERE ranked.place <= 25 AND (ranked.segment = 'retail' OR ranked.segment = 'trade')
ORDER BY ranked.region, ranked.month DESC, ranked.place
LIMIT 500;
"""


def test_parse(flame):
    statements = flame(sqlparse.parse, REPORT_QUERY)

    assert len(statements) == 1
    assert statements[0].get_type() == "SELECT"
