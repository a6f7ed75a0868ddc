// Package v2 declares, of Grafana's dashboard schema v2, the names that dashboard-linter compiles against.
//
// Our dashboards are of the classic schema, which the linter reads by types of its own: nothing here runs.
package v2

type DashboardSpec struct {
	Title       string                         `json:"title"`
	Editable    *bool                          `json:"editable,omitempty"`
	Elements    map[string]DashboardElement    `json:"elements"`
	Variables   []DashboardVariableKind        `json:"variables"`
	Annotations []DashboardAnnotationQueryKind `json:"annotations"`
}

type DashboardElement struct {
	PanelKind *DashboardPanelKind
}

type DashboardPanelKind struct {
	Spec DashboardPanelSpec `json:"spec"`
}

type DashboardPanelSpec struct {
	Id          float64                 `json:"id"`
	Title       string                  `json:"title"`
	Description string                  `json:"description"`
	Data        DashboardQueryGroupKind `json:"data"`
	VizConfig   DashboardVizConfigKind  `json:"vizConfig"`
}

type DashboardQueryGroupKind struct {
	Spec struct {
		Queries []DashboardPanelQueryKind `json:"queries"`
	} `json:"spec"`
}

type DashboardVizConfigKind struct {
	Group string `json:"group"`
	Spec  struct {
		FieldConfig map[string]any `json:"fieldConfig"`
		Options     map[string]any `json:"options"`
	} `json:"spec"`
}

type DashboardPanelQueryKind struct {
	Spec struct {
		RefId  string                 `json:"refId"`
		Hidden bool                   `json:"hidden"`
		Query  DashboardDataQueryKind `json:"query"`
	} `json:"spec"`
}

type DashboardDataQueryKind struct {
	Group      string         `json:"group"`
	Spec       map[string]any `json:"spec"`
	Datasource *struct {
		Name *string `json:"name,omitempty"`
	} `json:"datasource,omitempty"`
}

type DashboardAnnotationQueryKind struct {
	Spec struct {
		Name  string                 `json:"name"`
		Query DashboardDataQueryKind `json:"query"`
	} `json:"spec"`
}

type DashboardVariableRefresh string

const (
	DashboardVariableRefreshOnDashboardLoad    DashboardVariableRefresh = "onDashboardLoad"
	DashboardVariableRefreshOnTimeRangeChanged DashboardVariableRefresh = "onTimeRangeChanged"
)

type DashboardVariableKind struct {
	QueryVariableKind      *DashboardQueryVariableKind
	DatasourceVariableKind *DashboardDatasourceVariableKind
	CustomVariableKind     *DashboardPlainVariableKind
	IntervalVariableKind   *DashboardPlainVariableKind
	ConstantVariableKind   *DashboardPlainVariableKind
	TextVariableKind       *DashboardPlainVariableKind
	AdhocVariableKind      *DashboardPlainVariableKind
	GroupByVariableKind    *DashboardPlainVariableKind
	SwitchVariableKind     *DashboardPlainVariableKind
}

type DashboardQueryVariableKind struct {
	Spec struct {
		Name     string                   `json:"name"`
		Label    *string                  `json:"label,omitempty"`
		Multi    bool                     `json:"multi"`
		AllValue *string                  `json:"allValue,omitempty"`
		Refresh  DashboardVariableRefresh `json:"refresh"`
		Query    DashboardDataQueryKind   `json:"query"`
	} `json:"spec"`
}

type DashboardDatasourceVariableKind struct {
	Spec struct {
		Name     string                   `json:"name"`
		Label    *string                  `json:"label,omitempty"`
		Multi    bool                     `json:"multi"`
		AllValue *string                  `json:"allValue,omitempty"`
		Refresh  DashboardVariableRefresh `json:"refresh"`
		PluginId string                   `json:"pluginId"`
	} `json:"spec"`
}

type DashboardPlainVariableKind struct {
	Spec struct {
		Name     string  `json:"name"`
		Label    *string `json:"label,omitempty"`
		Multi    bool    `json:"multi"`
		AllValue *string `json:"allValue,omitempty"`
		Query    string  `json:"query"`
	} `json:"spec"`
}
