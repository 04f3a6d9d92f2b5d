import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/** What DBeaver does with ClickHouse's JDBC driver; prints "name: value" lines that the test compares. */
public final class JdbcCheck {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", arguments[1]);
        properties.setProperty("password", System.getenv("CHECK_PASSWORD"));
        for (int i = 2; i + 1 < arguments.length; i += 2) {
            properties.setProperty(arguments[i], arguments[i + 1]);
        }
        try (Connection connection = DriverManager.getConnection(arguments[0], properties)) {
            DatabaseMetaData metadata = connection.getMetaData();
            print("product", metadata.getDatabaseProductName());
            print("version", metadata.getDatabaseProductVersion());
            print("schemas", list(metadata.getSchemas(), "TABLE_SCHEM"));
            print("table types", list(metadata.getTableTypes(), "TABLE_TYPE"));
            print("tables", list(metadata.getTables(null, connection.getSchema(), "%", null), "TABLE_NAME"));
            print("columns", list(metadata.getColumns(null, connection.getSchema(), "jdbc_rows", "%"), "COLUMN_NAME"));
            print("types", list(metadata.getTypeInfo(), "TYPE_NAME").isEmpty() ? "none" : "some");
            print("functions", list(metadata.getFunctions(null, null, "toStartOf%"), "FUNCTION_NAME").isEmpty() ? "none" : "some");
            print("keys", list(metadata.getPrimaryKeys(null, connection.getSchema(), "jdbc_rows"), "COLUMN_NAME"));
            prepared(connection);
            big(connection);
            failing(connection);
            if (arguments[1].equals("default")) {
                writing(connection);
            }
        }
    }

    private static void prepared(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(
                "SELECT id, name, at FROM jdbc_rows WHERE name = ? AND id > ? ORDER BY id")) {
            statement.setString(1, "it's");
            statement.setLong(2, 1);
            print("prepared", list(statement.executeQuery(), "name"));
        }
    }

    private static void big(Connection connection) throws SQLException {
        long sum = 0;
        long rows = 0;
        try (Statement statement = connection.createStatement();
                ResultSet result = statement.executeQuery("SELECT number, toString(number) AS text FROM numbers(1000000)")) {
            while (result.next()) {
                sum += result.getLong(1);
                rows += result.getString(2).isEmpty() ? 0 : 1;
            }
        }
        print("big", rows + " " + sum);
    }

    private static void failing(Connection connection) {
        try (Statement statement = connection.createStatement()) {
            statement.executeQuery("SELECT * FROM no_such_table");
            print("error", "none");
        } catch (SQLException exception) {
            print("error", exception.getErrorCode() + " " + exception.getMessage().contains("UNKNOWN_TABLE"));
        }
    }

    private static void writing(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE IF NOT EXISTS jdbc_made (id UInt64, name String) ENGINE = MergeTree ORDER BY id");
            statement.execute("TRUNCATE TABLE jdbc_made");
        }
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO jdbc_made (id, name) VALUES (?, ?)")) {
            for (int i = 0; i < 1000; i++) {
                statement.setLong(1, i);
                statement.setString(2, "name '" + i);
                statement.addBatch();
            }
            statement.executeBatch();
        }
        try (Statement statement = connection.createStatement();
                ResultSet result = statement.executeQuery("SELECT count(), max(name) FROM jdbc_made")) {
            result.next();
            print("written", result.getLong(1) + " " + result.getString(2));
        }
    }

    private static String list(ResultSet result, String column) throws SQLException {
        StringBuilder text = new StringBuilder();
        try (result) {
            while (result.next()) {
                text.append(text.length() == 0 ? "" : ",").append(result.getString(column));
            }
        }
        return text.toString();
    }

    private static void print(String name, String value) {
        System.out.println(name + ": " + value);
    }
}
